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
# # Compare methods
#
# The same picture, seeds, prompts and noise; several methods. It shows how to compare, in few steps and with few
# pictures, so that it takes minutes on two CPU cores. The page about the study has the figures that count.

# %%
import sdk

sdk.quiet()  # before the rest is imported: none of the libraries' banners

# %%
from PIL import Image

from sdk import Personalizer, compare
from sdk.comparison import resolve_arms
from sdk.miniworld import demo_picture

picture = demo_picture()
personalizer = Personalizer.from_pretrained("bundled", device="cpu")
picture.resize((256, 256), 0)

# %% [markdown]
# ## Arms
#
# An arm is a method, a `method:preset`, or DisenDiff with one of its parts left out, such as `disendiff:no-bind`. A
# method alone means its authors' settings, the preset `reference`.

# %%
names = ["disendiff:best", "disendiff", "break_a_scene", "textual_inversion"]
[(arm.name, arm.method, arm.preset, arm.changes) for arm in resolve_arms(names)]

# %% [markdown]
# ## Fit and draw
#
# `settings` lie on top of every arm's own. 120 steps are few: the bundled model's settings say 320.

# %%
comparison = compare(
    personalizer,
    picture,
    ["cat", "dog"],
    methods=names,
    settings={"steps": 120},
    prompts=2,
    num_images=2,
    progress=print,
)

# %% [markdown]
# ## Figures
#
# Fidelity of each concept, leakage, how often a concept asked for alone comes once, how often both are right together,
# and what the fit took. The last line is the model without a pack.

# %%
print(comparison.table())

# %% [markdown]
# ## Pictures
#
# One row a method, the first picture of each prompt. Figures of so few pictures say little; look at them.

# %%
rows = [result.drawn for result in comparison.results]
side = 128
sheet = Image.new("RGB", (side * len(rows[0]), side * len(rows)))
for line, drawn in enumerate(rows):
    for column, each in enumerate(drawn):
        sheet.paste(each.images[0].resize((side, side), 0), (side * column, side * line))
print("\n".join(f"row {line + 1}: {result.name}" for line, result in enumerate(comparison.results)))
sheet

# %%
fitted, untouched = comparison.results[:-1], comparison.results[-1]
assert max(result.scores.fidelity for result in fitted) > untouched.scores.fidelity, "nothing was learned"

# %% [markdown]
# ## Keep one
#
# Every result has its pack.

# %%
best = max(fitted, key=lambda result: result.scores.fidelity)
best.name, best.pack.prompt, best.seconds
