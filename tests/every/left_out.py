"""The pipeline classes that are not built, each with the reason."""

from __future__ import annotations


def _needs(package: str, *names: str) -> dict[str, str]:
    return {name: f"needs {package}" for name in names}


LEFT_OUT: dict[str, str] = {
    "DiffusionPipeline": "the base class of the others",
    **_needs("librosa", "AudioDiffusionPipeline"),
    **_needs("opencv", "ConsisIDPipeline"),
    **_needs("torchvision", "OmniGenPipeline"),
    **_needs("note_seq", "SpectrogramDiffusionPipeline"),
    **_needs("sentencepiece", "KolorsImg2ImgPipeline", "KolorsPAGPipeline", "KolorsPipeline"),
    **_needs(
        "onnxruntime; and runs no torch network", "OnnxStableDiffusionImg2ImgPipeline",
        "OnnxStableDiffusionInpaintPipeline", "OnnxStableDiffusionInpaintPipelineLegacy", "OnnxStableDiffusionPipeline",
        "OnnxStableDiffusionUpscalePipeline", "StableDiffusionOnnxPipeline",
    ),
    "DiffusionGemmaPipeline": "writes text, token by token",
    "LLaDA2Pipeline": "writes text, token by token",
    "RFD4ProteinaPipeline": "designs proteins",
}  # fmt: skip
