"""The pipeline classes that are not built, each with the reason."""

from __future__ import annotations


def _needs(package: str, *names: str) -> dict[str, str]:
    return dict.fromkeys(names, f"needs {package}")


LEFT_OUT: dict[str, str] = {
    "DiffusionPipeline": "the base class of the others",
    **_needs("librosa", "AudioDiffusionPipeline"),
    **_needs("opencv", "ConsisIDPipeline"),
    **_needs("torchvision", "OmniGenPipeline", "Cosmos2_5_PredictBasePipeline", "Cosmos2_5_TransferPipeline"),
    **_needs("note_seq", "SpectrogramDiffusionPipeline"),
    **_needs("sentencepiece", "KolorsImg2ImgPipeline", "KolorsPAGPipeline", "KolorsPipeline"),
    **_needs(
        "onnxruntime; and runs no torch network", "OnnxStableDiffusionImg2ImgPipeline",
        "OnnxStableDiffusionInpaintPipeline", "OnnxStableDiffusionInpaintPipelineLegacy", "OnnxStableDiffusionPipeline",
        "OnnxStableDiffusionUpscalePipeline", "StableDiffusionOnnxPipeline",
    ),
    "DiffusionGemmaPipeline": "writes text, token by token",
    "LLaDA2Pipeline": "writes text, token by token",
    "VersatileDiffusionPipeline": "cannot be called; its three methods are the other Versatile Diffusion pipelines",
    "VersatileDiffusionDualGuidedPipeline": "fails by itself: its transformer takes no encoder_attention_mask",
    "EasyAnimateControlPipeline": "fails by itself: its encode_prompt takes no text_encoder_index",
    "FluxPriorReduxPipeline": "runs no diffusion: it embeds a picture",
    "LTXLatentUpsamplePipeline": "runs no diffusion: it upsamples latents in one go",
    "LTX2LatentUpsamplePipeline": "runs no diffusion: it upsamples latents in one go",
    **dict.fromkeys(("BlipDiffusionPipeline", "BlipDiffusionControlNetPipeline"), "sees its subject by a Q-Former"),
    "VQDiffusionPipeline": "chooses VQ tokens",
    "LTX2DFRTemporalRefinePipeline": "refines what LTX2DFRPipeline made; has no other use",
    "LTX2VideoDiffusionDecodePipeline": "decodes latents",
    "LongCatImageEditPipeline": "reads pictures by a vision-language model that cannot be left out",
    "SanaWMPipeline": "a world model with camera paths",
    "SanaWMLTX2Refiner": "refines what SanaWMPipeline made",
    "Cosmos3OmniPipeline": "one network for text and video, with tokens of its own",
    "AnyFlowFARPipeline": "frames in chunks of their own lengths, each with a cache of the others",
    "Kandinsky6SRPipeline": "tiles of a large video",
    "JoyImageEditPlusPipeline": "reads pictures by a vision-language model that cannot be left out",
    "Ideogram4Pipeline": "reads prompts by a vision-language model that cannot be left out",
    "RFD4ProteinaPipeline": "designs proteins",
}  # fmt: skip
