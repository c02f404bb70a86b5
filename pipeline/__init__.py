"""Work on whole models that is no node: memory plan, description, quantization."""
