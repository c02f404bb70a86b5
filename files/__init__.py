"""What any part needs of the disk: images, PNG, hashes, atomic and resumable files."""
