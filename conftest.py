"""What all tests share: shape annotations of the packages are checked while tests run (a jaxtyping import hook, free in
normal use), and no property fails because the machine was busy.
"""

from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook(["llm_rec", "semantic_ids", "ctr_models"], "beartype.beartype")
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
