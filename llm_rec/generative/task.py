"""Training of a generative model: the mean negative log probability of the next item's codes."""

from llm_rec.generative.batches import GenerativeBatch
from llm_rec.generative.model import GenerativeModel
from llm_rec.training.task import StepLoss


class NextCodesTask:
    """Predict the codes of the item after every history, each after those before it. A `Task` for the trainer."""

    def __init__(self, model: GenerativeModel) -> None:
        self.model = model

    @property
    def module(self) -> GenerativeModel:
        return self.model

    def loss(self, batch: GenerativeBatch) -> StepLoss:
        """Mean over examples and books, with the loss of every book as a part."""
        found = self.model(batch.history, batch.users, batch.targets)
        by_book = -found.mean(0)
        total = by_book.mean()
        parts = {f"book_{number}": loss for number, loss in enumerate(by_book.detach().unbind(), start=1)}
        return StepLoss(total, {"loss": total.detach(), **parts}, float(len(batch.targets)))
