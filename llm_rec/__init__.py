"""llm-rec: language models inside recommender systems.

Rooms, lowest first: `artifacts`, `data`, `store`, `encoders`, `metrics`, `training`, `sequential`, `pad`, `analysis`,
`report`, `serving`, `recipes`, `cli`. Importing this package imports none of them, so it stays instant; import the room
you need, e.g. ``from llm_rec.data import Catalog``.
"""

__version__ = "0.1.0"
