"""The order in which pairs and groups are learned from."""

import pytest

from penjing.alignment.batch import AnswerBatch, pack
from penjing.alignment.loader import ItemLoader
from penjing.errors import DataError
from penjing.tokenizer.chat import ChatTokens


def make_loader(count=7, batch=3, seed=1):
    return ItemLoader(range(count), batch, collate, seed)


def collate(items, origin):
    return pack([ChatTokens([item, item], [False, True]) for item in items], AnswerBatch, origin=origin)


def drawn(loader, batches):
    return [batch.tokens.flatten().tolist() for batch in (next(loader) for _ in range(batches))]


def test_each_epoch_has_every_item_once_and_an_order_of_its_own():
    items = [item for batch in drawn(make_loader(), 7) for item in batch]
    epochs = [items[start : start + 7] for start in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_goes_on_from_a_saved_position_with_the_very_next_batch():
    loader, other = make_loader(), make_loader()
    drawn(loader, 4)
    other.load_state_dict(loader.state_dict())
    assert drawn(other, 5) == drawn(loader, 5)
    assert other.epoch == 27 / 7


@pytest.mark.parametrize(("other", "what"), [({"count": 8}, "data has changed"), ({"seed": 2}, "seed has changed")])
def test_refuses_a_position_in_other_data(other, what):
    with pytest.raises(DataError, match=what):
        make_loader(**other).load_state_dict(make_loader().state_dict())


def test_refuses_to_begin_without_items():
    with pytest.raises(DataError, match="nothing to learn from"):
        make_loader(count=0)
