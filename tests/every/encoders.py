"""Encoders of text and pictures, by class, from tiny configs of transformers, and tokenizers of the letters a to z."""

from __future__ import annotations

from typing import Any

from every.arguments import SIZE, TOKENS, WIDTH

LETTERS = "abcdefghijklmnopqrstuvwxyz"
START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = [letter + end for end in ("", "</w>") for letter in LETTERS] + [START, END]

_SMALL: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_CLIP_TEXT = _SMALL | {
    "vocab_size": len(WORDS), "max_position_embeddings": TOKENS, "bos_token_id": len(WORDS) - 2,
    "eos_token_id": len(WORDS) - 1, "projection_dim": WIDTH,
}  # fmt: skip
_CLAP = _SMALL | {
    "vocab_size": len(WORDS), "max_position_embeddings": 64, "projection_dim": WIDTH, "pad_token_id": 0,
}  # fmt: skip
_CLIP_VISION: dict[str, Any] = _SMALL | {"image_size": SIZE, "patch_size": 8, "projection_dim": WIDTH}
_T5 = {
    "vocab_size": len(WORDS), "d_model": WIDTH, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 2,
    "is_encoder_decoder": False, "tie_word_embeddings": False,
}  # fmt: skip


def clip_tokenizer(length: int = TOKENS) -> Any:
    """Of letters; a prompt is padded with ends."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer({word: i for i, word in enumerate(WORDS)}, [], model_max_length=length)


def tokenizer(length: int = TOKENS) -> Any:
    """Of letters, for encoders that want no tokenizer of their own."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="z"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    inner.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, WORDS.index(END))])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=END, eos_token=END, bos_token=START, unk_token="z", model_max_length=length
    )


def clip_image_processor(size: int = SIZE) -> Any:
    """Cuts and scales a picture to what the vision encoder wants."""
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


class Processor:
    """Stands for a processor of chats, where prompts are given as embeddings."""

    def __init__(self) -> None:
        self.tokenizer = tokenizer()

    def apply_chat_template(self, *messages: Any, **settings: Any) -> list[list[int]]:
        return [[0, 1]]


class Unguarded:
    """Stands for a safety checker that lets everything pass, without its networks."""

    def to(self, *place: Any) -> Unguarded:
        return self

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, video: Any) -> Any:
        return video


def paint_by_example() -> Any:
    """What Paint by Example sees its example with."""
    from diffusers.pipelines.deprecated.paint_by_example.image_encoder import PaintByExampleImageEncoder
    from transformers import CLIPVisionConfig

    return PaintByExampleImageEncoder(CLIPVisionConfig(**_CLIP_VISION | {"num_hidden_layers": 5}), proj_size=WIDTH)


def siglip_image_processor() -> Any:
    """Scales a picture to what the vision encoder wants."""
    from transformers import SiglipImageProcessorPil

    return SiglipImageProcessorPil(size={"height": SIZE, "width": SIZE})


def multilingual_clip() -> Any:
    """What the first Kandinsky has its text from."""
    from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP

    config: dict[str, Any] = {key: _CLIP_TEXT[key] for key in (*_SMALL, "vocab_size")}
    config |= {"transformerDimSize": WIDTH, "imageDimSize": WIDTH, "max_position_embeddings": 80}
    return MultilingualCLIP(MCLIPConfig(**config))


ENCODERS: dict[str, Any] = {
    # class: (class of its config, config), or what makes it
    "CLIPTokenizer": clip_tokenizer,
    "CLIPImageProcessorPil": clip_image_processor,
    "CLIPTextModel": ("CLIPTextConfig", _CLIP_TEXT),
    "CLIPTextModelWithProjection": ("CLIPTextConfig", _CLIP_TEXT),
    "CLIPVisionModel": ("CLIPVisionConfig", _CLIP_VISION),
    "CLIPVisionModelWithProjection": ("CLIPVisionConfig", _CLIP_VISION),
    "T5Tokenizer": tokenizer,
    "T5EncoderModel": ("T5Config", _T5),
    "XLMRobertaTokenizer": tokenizer,
    "MultilingualCLIP": multilingual_clip,
    "T5TokenizerFast": tokenizer,
    "GemmaTokenizer": tokenizer,
    "AutoTokenizer": tokenizer,
    "LlamaTokenizer": tokenizer,
    "PaintByExampleImageEncoder": paint_by_example,
    "SiglipVisionModel": ("SiglipVisionConfig", _SMALL | {"image_size": SIZE, "patch_size": 8}),
    "SiglipImageProcessorPil": siglip_image_processor,
    "SpeechT5HifiGan": ("SpeechT5HifiGanConfig", {
        "model_in_dim": 8, "sampling_rate": 16, "upsample_initial_channel": 8, "upsample_rates": [2, 2],
        "upsample_kernel_sizes": [4, 4], "resblock_kernel_sizes": [3, 3], "normalize_before": False,
        "resblock_dilation_sizes": [[1, 3], [1, 3]],
    }),
    "ClapTextModelWithProjection": ("ClapTextConfig", _CLAP),
    "UMT5EncoderModel": ("UMT5Config", _T5),
    "GPT2Tokenizer": tokenizer,
    "RobertaTokenizer": tokenizer,
    "Qwen2Tokenizer": tokenizer,
}  # fmt: skip
