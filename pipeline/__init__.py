"""Work on whole models outside nodes: memory plan, description, quantization."""
