"""A run before its first round, on digits: assignment, protection and training records."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from clients._shared.poisoning import select_share
from clients.backdoor import BackdoorClient
from clients.faulty import FaultyClient
from clients.sgd import SgdClient
from clients.unique_feature import UniqueFeatureClient, select_marked_row
from fl_sim import Adversary, Data, Experiment, Model
from fl_sim.attacks.memorisation import mark_bytes
from fl_sim.contracts import Protection
from fl_sim.core.errors import FieldError, RunFailedError
from fl_sim.core.perturbation import as_pixels
from fl_sim.core.seeding import generator
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Dirichlet, Iid
from fl_sim.data.sources import load_dataset, take_subset
from fl_sim.federation.federation import (
    Federation,
    load_experiment_dataset,
    load_federation,
    prepare_federation,
)
from fl_sim.federation.pool import list_noise_parts, make_noise
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.linear_separable import LinearSeparable
from fl_sim.protections.random_noise import RandomNoise
from fl_sim.protections.targeted_adversarial import TargetedAdversarial
from fl_sim.schedule import Schedule
from fl_sim.triggers import Bars

Maker = Callable[..., Experiment]
NOISE = RandomNoise(radius=16 / 255, form="sample")
UNITS: list[Any] = ["samples", "clients", "classes"]


def ready(experiment: Maker, **fields: Any) -> Federation:
    usual: dict[str, Any] = {"protection": NOISE, "layout": Layout(fraction=0.5)}
    return prepare_federation(experiment(**(usual | fields)))


def cells(federation: Federation, kept: Tensor) -> Tensor:
    """Return the number of selected records per client, class and protected status."""
    pool = federation.pool
    keys = (pool.clients * 10 + pool.labels) * 2 + pool.protected.long()
    return keys[kept].bincount(minlength=2 * 10 * federation.num_clients)


def test_the_pool_is_the_training_set_in_order(experiment: Maker) -> None:
    federation, dataset = ready(experiment), take_subset(load_dataset("digits"), 200, 60)
    assert torch.equal(federation.pool.clean_images, dataset.train_images)
    assert torch.equal(federation.pool.labels, dataset.train_labels)
    assert torch.equal(federation.test_inputs, dataset.test_images)


def test_shards_are_disjoint_and_cover_what_is_trained_on(experiment: Maker) -> None:
    federation = ready(experiment)
    shards = [federation.shard(client) for client in range(4)]
    ids = torch.cat([shard.sample_ids for shard in shards])
    assert len(ids.unique()) == len(ids)
    assert torch.equal(ids.sort().values, federation.trained.nonzero().squeeze(1))
    assert [len(shard) for shard in shards] == federation.shards.sizes
    for client, shard in enumerate(shards):
        assert shard.client == client
        assert bool((federation.pool.clients[shard.sample_ids] == client).all())
        assert torch.equal(shard.labels, federation.pool.labels[shard.sample_ids])
        assert torch.equal(shard.inputs, federation.inputs[shard.sample_ids])


def test_the_same_share_of_each_class_of_each_client_is_held_out(experiment: Maker) -> None:
    for held_out in (0.0, 0.25, 0.5, 0.9):
        data = Data(dataset="digits", num_clients=4, num_samples=400, held_out=held_out)
        pool = ready(experiment, data=data).pool
        for client in range(4):
            for label in range(10):
                own = (pool.clients == client) & (pool.labels == label)
                assert int((~pool.members)[own].sum()) == int(held_out * int(own.sum()))


@pytest.mark.parametrize("unit", UNITS)
def test_the_audit_has_as_many_members_as_outsiders_in_every_cell(
    experiment: Maker, unit: Any
) -> None:
    federation = ready(
        experiment, layout=Layout(fraction=0.5, unit=unit), partition=Dirichlet(alpha=0.3)
    )
    pool = federation.pool
    inside, outside = (
        cells(federation, pool.audited & kind) for kind in (pool.members, ~pool.members)
    )
    assert torch.equal(inside, outside)
    everybody = torch.minimum(cells(federation, pool.members), cells(federation, ~pool.members))
    assert torch.equal(inside, everybody)  # and no more could be matched
    assert int(inside.sum()) > 0


def test_the_audit_does_not_depend_on_the_noise(experiment: Maker) -> None:
    first = ready(experiment).pool.audited
    other = ready(experiment, protection=LinearSeparable(patch=4)).pool.audited
    assert torch.equal(first, other)


def test_every_record_is_seen_as_it_is_published(experiment: Maker) -> None:
    federation = ready(experiment)
    pool = federation.pool
    assert torch.equal(federation.inputs[pool.protected], pool.noisy_images[pool.protected])
    assert torch.equal(federation.inputs[~pool.protected], pool.clean_images[~pool.protected])
    changed = (federation.inputs != pool.clean_images).flatten(1).any(1)
    assert torch.equal(changed, pool.protected)


def test_test_images_are_never_protected(experiment: Maker) -> None:
    clean = take_subset(load_dataset("digits"), 200, 60).test_images
    for unit in UNITS:
        layout = Layout(fraction=1.0, unit=unit)
        assert torch.equal(ready(experiment, layout=layout).test_inputs, clean)


@pytest.mark.parametrize("provenance", ["shared", "client"])
def test_noise_that_changes_nothing_is_a_failure(experiment: Maker, provenance: Any) -> None:
    """Two sign steps of a 125th of the radius change no pixel by half a level."""
    weak = TargetedAdversarial(noise_steps=2, surrogate_epochs=1)
    with pytest.raises(RunFailedError, match=r"TargetedAdversarial changed no pixel of any image"):
        ready(experiment, protection=weak, layout=Layout(1.0, provenance=provenance))


@pytest.mark.parametrize("provenance", ["shared", "owner", "client"])
@pytest.mark.parametrize("unit", UNITS)
def test_the_noise_of_an_image_does_not_depend_on_the_fraction(
    experiment: Maker, unit: Any, provenance: Any
) -> None:
    some, more, all_ = (
        ready(experiment, layout=Layout(share, unit, provenance)) for share in (0.25, 0.5, 1.0)
    )
    for fewer in (some, more):
        marked = fewer.pool.protected
        assert bool(all_.pool.protected[marked].all())
        assert torch.equal(fewer.inputs[marked], all_.inputs[marked])


@pytest.mark.parametrize("unit", UNITS)
def test_the_partition_does_not_depend_on_who_protects(experiment: Maker, unit: Any) -> None:
    clean = prepare_federation(experiment())
    federation = ready(experiment, layout=Layout(fraction=0.5, unit=unit))
    assert torch.equal(clean.pool.clients, federation.pool.clients)
    assert torch.equal(clean.pool.members, federation.pool.members)


class SpiedNoise:
    """Records the calls of a protection."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[Tensor, Tensor, Tensor, int]] = []
        protect = Protection.protect

        def spy(protection: Any, images: Any, labels: Any, ids: Any, seed: Any) -> Tensor:
            self.seen.append((images, labels, ids, seed))
            return protect(protection, images, labels, ids, seed)

        monkeypatch.setattr(Protection, "protect", spy)


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> SpiedNoise:
    monkeypatch.setenv("FL_SIM_CACHE", str(tmp_path))
    return SpiedNoise(monkeypatch)


@pytest.mark.parametrize("unit", ["samples", "clients"])
def test_a_clients_noise_is_made_of_its_own_images_alone(
    experiment: Maker, unit: Any, spied: SpiedNoise
) -> None:
    federation = ready(experiment, layout=Layout(0.5, unit, provenance="client"))
    owners = federation.pool.clients[federation.pool.protected].unique().tolist()
    assert len(spied.seen) == len(owners)
    assert len({seed for *_, seed in spied.seen}) == len(owners)
    for client, (images, labels, ids, _) in zip(owners, spied.seen, strict=True):
        own = (federation.pool.clients == client).nonzero().squeeze(1)
        assert torch.equal(ids, own)
        assert torch.equal(images, federation.pool.clean_images[own])
        assert torch.equal(labels, federation.pool.labels[own])


def test_the_clients_of_an_owner_share_its_noise(experiment: Maker, spied: SpiedNoise) -> None:
    layout = Layout(1.0, provenance="owner", num_owners=2)
    federation = ready(experiment, layout=layout)
    owners = layout.assign_owners(federation.num_clients, federation.experiment.seed)
    counts = owners.bincount()
    assert len(counts) == 2
    assert int(counts.max() - counts.min()) <= 1
    for owner, (images, _, ids, _) in enumerate(spied.seen):
        own = (owners[federation.pool.clients] == owner).nonzero().squeeze(1)
        assert torch.equal(ids, own)
        assert torch.equal(images, federation.pool.clean_images[own])


@pytest.mark.parametrize("provenance", ["owner", "client"])
def test_noise_that_was_made_beforehand_is_found(
    experiment: Maker, spied: SpiedNoise, provenance: Any
) -> None:
    asked = experiment(protection=NOISE, layout=Layout(0.5, "clients", provenance))
    data = load_experiment_dataset(asked)
    count = len(list_noise_parts(asked, data))
    for number in range(count):
        make_noise(asked, data, number)
    assert len(spied.seen) == count >= 1
    prepare_federation(asked)
    assert len(spied.seen) == count


def test_shared_noise_is_made_once_of_everybodys_images(
    experiment: Maker, spied: SpiedNoise
) -> None:
    federation = ready(experiment)
    ((images, _, ids, seed),) = spied.seen
    assert torch.equal(images, federation.pool.clean_images)
    assert torch.equal(ids, torch.arange(200))
    assert seed == federation.experiment.seed


def test_noise_is_made_once_and_then_read_from_disk(experiment: Maker, spied: SpiedNoise) -> None:
    first = ready(experiment, protection=ErrorMinimizing(max_passes=1))
    for fraction in (0.25, 1.0):
        layout = Layout(fraction=fraction)
        other = ready(experiment, protection=ErrorMinimizing(max_passes=1), layout=layout)
        assert torch.equal(first.pool.noisy_images, other.pool.noisy_images)
    assert len(spied.seen) == 1


def test_clients_draw_other_noise_than_all_together(experiment: Maker) -> None:
    shared = ready(experiment, layout=Layout(1.0))
    own = ready(experiment, layout=Layout(1.0, provenance="client"))
    assert not torch.equal(shared.inputs, own.inputs)


def test_another_seed_makes_another_federation(experiment: Maker) -> None:
    one, other = ready(experiment, seed=0), ready(experiment, seed=1)
    for name in ("clients", "members", "protected", "audited", "noisy_images"):
        assert not torch.equal(getattr(one.pool, name), getattr(other.pool, name))


def test_the_same_experiment_makes_the_same_federation_whatever_was_drawn(
    experiment: Maker,
) -> None:
    torch.manual_seed(1)
    one = ready(experiment)
    torch.manual_seed(2)
    other = ready(experiment)
    assert torch.equal(one.inputs, other.inputs)
    assert torch.equal(one.trained, other.trained)
    assert torch.equal(one.model[1].weight, other.model[1].weight)


def test_the_first_control_trains_on_the_same_images_without_noise(experiment: Maker) -> None:
    base = experiment(protection=NOISE, layout=Layout(fraction=0.5))
    federation, control = prepare_federation(base), prepare_federation(base.controls()["all"])
    assert torch.equal(control.trained, federation.trained)
    assert torch.equal(control.inputs, federation.pool.clean_images)
    assert not control.pool.protected.any()


@pytest.mark.parametrize("unit", UNITS)
def test_the_second_control_trains_on_the_clean_part_alone(experiment: Maker, unit: Any) -> None:
    base = experiment(protection=NOISE, layout=Layout(fraction=0.5, unit=unit))
    federation, control = prepare_federation(base), prepare_federation(base.controls()["clean"])
    assert torch.equal(control.trained, federation.trained & ~federation.pool.protected)
    ids = torch.cat([control.shard(client).sample_ids for client in range(4)])
    assert not federation.pool.protected[ids].any()
    assert torch.equal(control.inputs[ids], federation.pool.clean_images[ids])
    assert not (control.pool.audited & control.pool.protected).any()


def test_withholding_everything_is_refused(experiment: Maker) -> None:
    with pytest.raises(FieldError, match=r"layout.fraction: below 1 where images are withheld"):
        prepare_federation(experiment(layout=Layout(fraction=1.0, withheld=True)))


def test_counts_are_about_everything_that_a_client_holds(experiment: Maker) -> None:
    federation = ready(experiment)
    counts = federation.class_counts
    for client in range(4):
        own = federation.pool.clients == client
        assert (
            counts[client].tolist() == federation.pool.labels[own].bincount(minlength=10).tolist()
        )
        assert int(federation.protected_counts[client]) == int(federation.pool.protected[own].sum())


def test_adversaries_are_chosen_by_the_seed_and_behave_as_such(experiment: Maker) -> None:
    adversary = Adversary(FaultyClient(), num_clients=2)
    federation = prepare_federation(experiment(adversary=adversary))
    schedule = federation.schedule
    assert len(schedule.attackers(1)) == 2
    for client in range(4):
        expected = FaultyClient() if client in schedule.attackers(1) else SgdClient()
        assert schedule.behaviour(client, 1) == expected
    seeded = (Schedule(experiment(adversary=adversary, seed=s)) for s in range(6))
    assert len({schedule.attackers(1) for schedule in seeded}) > 1


def test_more_adversaries_are_the_same_and_others(experiment: Maker) -> None:
    one, two = (
        Schedule(experiment(adversary=Adversary(FaultyClient(), num_clients=n))).attackers(1)
        for n in (1, 2)
    )
    assert one < two


def test_a_frozen_front_is_replaced_by_its_features(experiment: Maker) -> None:
    model = Model("small_cnn", tune="head")
    federation = ready(experiment, model=model)
    assert federation.inputs.shape == (200, 64)
    assert federation.test_inputs.shape == (60, 64)
    assert [type(layer).__name__ for layer in federation.model] == ["Linear"]
    clean = prepare_federation(experiment(model=model)).inputs
    assert torch.equal(
        federation.inputs[~federation.pool.protected], clean[~federation.pool.protected]
    )
    changed = (federation.inputs != clean).any(1)
    assert torch.equal(changed, federation.pool.protected)


def test_features_of_changed_images_are_those_of_the_front(experiment: Maker) -> None:
    bars = BackdoorClient(Bars(length=2, gap=1), share=0.4, shared=True)
    federation = prepare_federation(
        experiment(
            model=Model("small_cnn", tune="head"),
            protection=RandomNoise(radius=64 / 255),
            layout=Layout(0.5, first_round=2),
            adversary=(
                Adversary(bars, clients=(1, 2)),
                Adversary(UniqueFeatureClient(), clients=(2, 3), first_round=2),
            ),
            rounds=2,
        )
    )
    pool = federation.pool
    for client, round_num in product(range(4), (1, 2)):
        shard = federation.shard(client, round_num)
        rows, changed = shard.sample_ids, shard.changed_inputs
        noisy = pool.protected[rows] & (round_num == 2)
        images = pool.clean_images[rows]
        images[noisy] = pool.noisy_images[rows][noisy]
        if client in (1, 2):
            stamped = select_share(shard, 0.4, "backdoor")
            images[stamped] = Bars(length=2, gap=1).stamp(images[stamped], client)
        if client in (2, 3) and round_num == 2:
            marked = select_marked_row(shard)
            images[marked] = mark_bytes(images[marked])
        if client == 0 or (client == 3 and round_num == 1):
            assert changed is None
        else:
            assert changed is not None
            assert changed.dtype == torch.float32
            expected = federation.frozen(as_pixels(images))
            torch.testing.assert_close(changed, expected, atol=2e-3, rtol=2e-3)
            assert bool((changed != shard.inputs).any())
    assert prepare_federation(experiment(adversary=Adversary(bars))).shards.changed_inputs == {}


def test_random_fronts_of_other_seeds_see_other_features(experiment: Maker) -> None:
    model, data = Model("small_cnn", tune="head"), experiment().data
    one, other = (
        prepare_federation(experiment(model=model, data=data, partition=Iid(), seed=seed))
        for seed in (0, 1)
    )
    assert not torch.equal(one.test_inputs, other.test_inputs)


def test_a_federation_is_prepared_once_a_process(experiment: Maker) -> None:
    text = experiment(rounds=7).to_json()
    assert load_federation(text) is load_federation(text)


def test_nothing_held_out_leaves_nothing_to_audit(experiment: Maker) -> None:
    data = replace(experiment().data, held_out=0.0)
    federation = prepare_federation(experiment(data=data))
    assert federation.pool.members.all()
    assert not federation.pool.audited.any()


def test_features_do_not_depend_on_who_computed_first(
    experiment: Maker, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    model = Model("small_cnn", tune="head")
    seen = []
    for number, order in enumerate(([0.0, 0.5], [0.5, 0.0])):
        monkeypatch.setenv("FL_SIM_CACHE", str(tmp_path / str(number)))
        for fraction in order:
            federation = ready(experiment, model=model, layout=Layout(fraction=fraction))
            if fraction:
                seen.append(federation.inputs)
    assert torch.equal(*seen)


def test_a_generator_named_after_a_client_is_not_anothers() -> None:
    draws = {torch.rand(1, generator=generator(0, "protection", c)).item() for c in range(50)}
    assert len(draws) == 50
