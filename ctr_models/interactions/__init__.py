"""What is computed between field vectors and the head: product networks (the IPA normal form) and their neighbours."""
