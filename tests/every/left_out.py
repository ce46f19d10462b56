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
    "RFD4ProteinaPipeline": "designs proteins",
}  # fmt: skip
