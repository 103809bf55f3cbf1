"""The package map, the compiled CPU library and the long description. Metadata lives in pyproject.toml.

``kernels/`` must never hold an ``__init__.py``: transformers and diffusers would take it for the Hugging Face
package of that name as soon as Python starts in this folder. The package therefore sits one level down and
is installed as ``sdk.kernels``; tests/packaging proves it.

The library needs neither torch nor Python to be built: both reach it through its C header. It is optional: without a
compiler the package installs and says what is missing (``personalizer doctor``). ``PERSONALIZER_BUILD=0`` leaves it
out.
"""

import base64
import io
import os
import platform
import re
from glob import glob
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel

HERE = Path(__file__).resolve().parent

# A package's folder where it is not its name; sub-packages are found.
FOLDERS = {"sdk": "sdk", "sdk.kernels": "kernels/fused", "sdk.bindings": "bindings"}
DATA = ["py.typed", *(f"**/*.{suffix}" for suffix in ("json", "toml", "txt", "html", "css", "js"))]


def packages() -> list[str]:
    """Return every package under the folders above; a new one needs no entry anywhere."""
    return [
        found
        for package, folder in FOLDERS.items()
        for found in (package, *(f"{package}.{inner}" for inner in sorted(find_packages(str(HERE / folder)))))
    ]


def library() -> Extension:
    """Return the one compiled library: csrc/ behind its C header."""
    return Extension(
        "sdk.bindings._core",
        sorted(glob("csrc/*.cpp")),
        language="c++",
        extra_compile_args=["-O3", "-std=c++20", "-fvisibility=hidden", "-fno-math-errno"],
        depends=[*glob("csrc/*.hpp"), *glob("csrc/*.inl"), *glob("csrc/include/*.h")],
        define_macros=[("PK_X86", "1")] if platform.machine() in ("x86_64", "AMD64") else [],
        optional=True,
        py_limited_api=True,  # it knows no Python at all: the name must not tie it to one version
    )


def long_description() -> str:
    """Return README.md as it can stand alone: pictures inside, and links to files replaced by their paths."""
    text = (HERE / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"!\[([^]]*)\]\((?!https?:)([^)]+)\)", lambda m: f"![{m[1]}]({_embedded(HERE / m[2])})", text)
    local = r"(?<!!)\[([^]]*)\]\((?!https?:|mailto:|#|data:)([^)]+)\)"
    return re.sub(local, lambda m: f"`{m[2]}`" if m[1] == m[2] else f"{m[1]} (`{m[2]}`)", text)


def _embedded(picture: Path) -> str:
    """A picture as a data URI: the metadata of a package is read often, so as a JPEG if Pillow is there to make one."""
    content, kind = picture.read_bytes(), picture.suffix[1:].lower()
    try:
        from PIL import Image
    except ImportError:
        pass
    else:
        smaller = io.BytesIO()
        Image.open(io.BytesIO(content)).convert("RGB").save(smaller, "JPEG", quality=75, optimize=True)
        content, kind = smaller.getvalue(), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


class AnyPython(bdist_wheel):
    """A wheel with the library serves every Python 3 of its platform."""

    def get_tag(self):
        return ("py3", "none", super().get_tag()[2])


if __name__ == "__main__":
    setup(
        packages=packages(),
        package_dir=FOLDERS,
        package_data={"sdk": [*DATA, "bundled/**/*", "studio/*.css", "studio/*.png"], "sdk.kernels": DATA},
        include_package_data=False,  # MANIFEST.in is for the source distribution, which holds much more
        long_description=long_description(),
        long_description_content_type="text/markdown",
        ext_modules=[] if os.environ.get("PERSONALIZER_BUILD") == "0" else [library()],
        cmdclass={"bdist_wheel": AnyPython},
    )
