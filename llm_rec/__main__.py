"""``python -m llm_rec``."""

from llm_rec.cli import main

if __name__ == "__main__":
    main()
