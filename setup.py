"""The package map. Metadata and tool settings live in pyproject.toml.

``kernels/`` must never hold an ``__init__.py``: transformers and diffusers would take it for the Hugging Face
package of that name as soon as Python starts in this folder. The package therefore sits one level down and
is installed as ``sdk.kernels``; tests/packaging proves it.
"""

from setuptools import setup

if __name__ == "__main__":
    setup(
        packages=[
            "sdk",
            "sdk.commands",
            "sdk.methods",
            "sdk.miniworld",
            "sdk.miniworld.training",
            "sdk.kernels",
        ],
        package_dir={"sdk": "sdk", "sdk.kernels": "kernels/fused"},
        package_data={"sdk": ["py.typed", "bundled/**/*"]},
    )
