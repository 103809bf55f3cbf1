# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # First pack
#
# One picture of a cat and a dog; two words that mean *this* cat and *this* dog; pictures of them. Everything runs on
# the bundled model, a small Stable Diffusion of a drawn world: no download, some minutes on two CPU cores.

# %%
import sdk

sdk.quiet()  # before the rest is imported: none of the libraries' banners

# %%
import tempfile
from pathlib import Path

from PIL import Image

from sdk import ConceptPack, FitConfig, Personalizer, evaluate
from sdk.miniworld import demo_picture

folder = Path(tempfile.mkdtemp())
demo_picture().save(folder / "photo.png")
demo_picture().resize((256, 256), 0)

# %% [markdown]
# ## The base model
#
# `"bundled"`, or the folder, file or Hub id of a Stable Diffusion 1.x. It brings settings of its own for a fit, which
# `default_config` shows; what differs from the defaults for SD 1.5 is printed here.

# %%
personalizer = Personalizer.from_pretrained("bundled", device="cpu")
config = personalizer.default_config()
plain = FitConfig.preset("best").to_dict()
{name: value for name, value in config.to_dict().items() if value != plain[name]}

# %% [markdown]
# Without a pack the model draws some cat.

# %%
some_cat = personalizer.generate("a cat on the beach", seed=0, num_inference_steps=25).images[0]
some_cat.resize((256, 256), 0)

# %% [markdown]
# ## Learn
#
# A concept is a class noun; its token is made for it: `<new1>` for the first, `<new2>` for the second. `progress` shows
# a bar. The pictures of cats and dogs in general that are drawn first (priors) keep the model from forgetting them.

# %%
with sdk.progress() as bar:
    pack = personalizer.fit(
        folder / "photo.png", ["cat", "dog"], config=config, seed=0, output_dir=folder / "my-pets", progress=bar
    )
pack.prompt

# %% [markdown]
# The folder has, besides the weights, pictures to look at. Where does each word look, before the fit and after it?

# %%
Image.open(folder / "my-pets" / "attention.png")

# %% [markdown]
# ## Draw
#
# Each token stands directly before its noun. The same seed gives the same picture.

# %%
prompts = ["a <new1> cat on the beach", "a <new2> dog in the snow", "a <new1> cat and a <new2> dog at night"]
pictures = personalizer.generate(prompts, concepts=pack, seed=0, num_inference_steps=25).images
sheet = Image.new("RGB", (256 * len(pictures), 256))
for column, picture in enumerate(pictures):
    sheet.paste(picture.resize((256, 256), 0), (256 * column, 0))
sheet

# %% [markdown]
# A drawing may start from a picture. `strength` says how much of it is drawn anew.

# %%
again = personalizer.img2img(some_cat, "a <new1> cat on the beach", concepts=pack, strength=0.8, seed=0)
again.images[0].resize((256, 256), 0)

# %% [markdown]
# ## Measure
#
# On the bundled world a judge reads every picture. Fidelity: how much of the concept is there when it is asked for.
# Leakage: how much of the other one is. Once: it is there once and not twice. Beside it, the model without the pack.

# %%
report = evaluate(personalizer, pack, num_images=2)
print(report.table())

# %%
assert report.fitted.fidelity > report.untouched.fidelity, "the fit taught it nothing"

# %% [markdown]
# ## Keep
#
# The pack is a folder of safetensors and JSON; read again, it draws the same pictures.

# %%
assert ConceptPack.from_pretrained(folder / "my-pets").content_hash() == pack.content_hash()
