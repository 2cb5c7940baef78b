"""Amazon's ways to a model: Bedrock and SageMaker, requests signed, answers framed as event streams."""
