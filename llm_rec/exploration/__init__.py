"""Exploration: how sure a click model is of a logit, and policies that act on it.

A model's last layer gets a Gaussian posterior (`posterior`, `last_layer`), or a logistic regression stands on given
features (`logistic`); both give beliefs, a mean and a deviation of every logit. Policies (`policies`) turn beliefs into
rankings and into distributions over actions, which `llm_rec.metrics.off_policy` values from a log.
"""
