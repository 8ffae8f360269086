"""Checks every jaxtyping shape annotation of the packages while tests run (an import hook, free in normal use)."""

from jaxtyping import install_import_hook

install_import_hook(["llm_rec", "semantic_ids", "ctr_models"], "beartype.beartype")
