"""The package map and the compiled CPU library. Metadata and tool settings live in pyproject.toml.

``kernels/`` must never hold an ``__init__.py``: transformers and diffusers would take it for the Hugging Face
package of that name as soon as Python starts in this folder. The package therefore sits one level down and
is installed as ``sdk.kernels``; tests/packaging proves it.

The library is built twice from csrc/: alone, for programs without torch, and with its torch operators if torch is
there while building. Both are optional: without a compiler the package installs and says what is missing
(``personalizer doctor``). ``PERSONALIZER_BUILD=0`` leaves them out.
"""

import os
import platform
from glob import glob

from setuptools import Extension, find_packages, setup

# LibTorch's stable ABI: built against this version, the operators load in it and in all later ones.
TORCH_TARGET = (2, 11)

SOURCES = sorted(glob("csrc/*.cpp"))
OPTIONS = {
    "language": "c++",
    "extra_compile_args": ["-O3", "-std=c++20", "-fvisibility=hidden", "-fno-math-errno"],
    "depends": [*glob("csrc/*.hpp"), *glob("csrc/*.inl"), *glob("csrc/include/*.h")],
    "define_macros": [("PK_X86", "1")] if platform.machine() in ("x86_64", "AMD64") else [],
    "optional": True,
}


def extensions() -> tuple[list[Extension], dict]:
    """Return what to compile, and the build command for it."""
    if os.environ.get("PERSONALIZER_BUILD") == "0":
        return [], {}
    found, commands = [Extension("sdk.bindings._core", SOURCES, **OPTIONS)], {}
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError:
        return found, commands
    version = TORCH_TARGET[0] << 56 | TORCH_TARGET[1] << 48
    options = OPTIONS | {"define_macros": [*OPTIONS["define_macros"], ("TORCH_TARGET_VERSION", f"{version:#x}")]}
    found.append(CppExtension("sdk.kernels._C", [*SOURCES, "bindings/torch_ops.cpp"], py_limited_api=True, **options))
    return found, {"build_ext": BuildExtension.with_options(use_ninja=False)}


if __name__ == "__main__":
    modules, commands = extensions()
    setup(
        packages=[*find_packages(include=["sdk", "sdk.*"]), "sdk.kernels", "sdk.bindings"],
        package_dir={"sdk": "sdk", "sdk.kernels": "kernels/fused", "sdk.bindings": "bindings"},
        package_data={"sdk": ["py.typed", "bundled/**/*", "**/*.json"]},
        ext_modules=modules,
        cmdclass=commands,
    )
