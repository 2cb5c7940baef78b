"""Anthropic's Messages API behind OpenAI's chat: https://platform.claude.com/docs/en/api/messages"""

from engines.anthropic.translator import VERSION, AnthropicTranslator

__all__ = ["VERSION", "AnthropicTranslator"]
