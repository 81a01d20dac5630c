"""Learns the weights of the joint fusion from cases with ground truth.

The weights maximise the mean soft Dice (Milletari et al., V-Net, 3DV 2016) of the fused probabilities, over organs and cases,
less a penalty on the squared logarithm of each weight. The penalty pulls the weights to 1, so that few cases do not overfit.
L-BFGS-B (Byrd et al., SIAM J. Sci. Comput. 1995) finds the maximum; the weights stay between bounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize

from medsam2_atlas.medsam2 import OrganLogits
from medsam2_atlas.scoremaps import ScoreMaps
from medsam2_atlas.segmenters.joint_config import JointFusionConfig
from medsam2_atlas.segmenters.joint_fusion import JointWeights
from medsam2_atlas.segmenters.joint_parts import disagreement, organ_parts, reduced_logits, temperature

_ABSENT = -1e4
"""Sum of an organ at voxels outside its box."""


@dataclass(frozen=True)
class Sample:
    """Some voxels of a case, of n voxels and K organs.

    Attributes:
        organs: the organ numbers, `[K]`.
        network: the network's logits after division by the temperature, `[n, K]`; 0 at voxels without logits.
        maps: the score maps' log odds, `[n, K]`.
        truth: the index of the true organ in `organs` plus 1, `[n]`; 0 for the background and other organs.
        counts: the number of voxels that each sampled voxel stands for, `[n]`.
        unreachable: the number of the organ's true voxels that no sample stands for, `[K]`.
        agreement: 1 less the disagreement of both sources on the organ, 0..1, `[K]`; 1 for organs without a score map.
    """

    organs: tuple[int, ...]
    network: torch.Tensor
    maps: torch.Tensor
    truth: torch.Tensor
    counts: torch.Tensor
    unreachable: torch.Tensor
    agreement: torch.Tensor


def sample_voxels(
    logits: Mapping[int, OrganLogits],
    scores: ScoreMaps,
    truth: np.ndarray,
    config: JointFusionConfig,
    generator: np.random.Generator,
) -> Sample:
    """Draws voxels of the reduced grid, so that each organ gets about as many.

    Args:
        logits: the logits of the prompted organs, by number.
        scores: the corrected score maps of the case.
        truth: the ground truth, organ numbers `[z, y, x]`.
        config: the settings.
        generator: draws the voxels.
    """
    parts = organ_parts(logits, scores, config)
    heat, shape, step = temperature(logits, config), scores.reduced_shape, scores.stride
    chance = np.zeros(shape, np.float32)
    networks = []
    for part in parts:
        network = np.clip(reduced_logits(part, scores) / heat, -config.max_logit, config.max_logit)
        near = (part.odds > part.odds.min() + config.learn_margin) | (network > 0)
        share = min(1.0, config.learn_voxels / max(1, int(near.sum())))
        chance[part.box] = np.maximum(chance[part.box], near * np.float32(share))
        networks.append(network)
    chosen = np.flatnonzero(generator.random(chance.size, np.float32) < chance.ravel())
    reduced = truth[:, step // 2 :: step, step // 2 :: step]
    columns = []
    for part, network in zip(parts, networks, strict=True):
        pair = []
        for values, empty in ((network, 0.0), (part.odds, _ABSENT)):
            dense = np.full(shape, empty, np.float32)
            dense[part.box] = values
            pair.append(dense.ravel()[chosen])
        columns.append(pair)
    organs = tuple(part.label for part in parts)
    index = np.zeros(256, np.int64)
    index[list(organs)] = np.arange(1, len(organs) + 1)
    outside = [int(((reduced == k) & (chance == 0)).sum()) for k in organs]
    sources = [torch.from_numpy(np.stack([pair[n] for pair in columns], 1)) for n in (0, 1)]
    differ = disagreement(parts, scores, heat)
    return Sample(
        organs,
        sources[0],
        sources[1],
        torch.from_numpy(index[reduced.ravel()[chosen]]),
        torch.from_numpy(1 / chance.ravel()[chosen]),
        torch.tensor(outside, dtype=torch.float32),
        torch.tensor([1 - differ.get(part.label, 1.0) if part.has_map else 1.0 for part in parts]),
    )


def learn_weights(samples: Sequence[Sample], config: JointFusionConfig) -> JointWeights:
    """Returns the weights that maximise the penalised mean soft Dice; see the module docstring.

    Args:
        samples: voxels of the cases.
        config: the settings.
    """
    organs = sorted({k for sample in samples for k in sample.organs})
    rows = [torch.tensor([organs.index(k) for k in sample.organs]) for sample in samples]

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        logs = torch.tensor(values.reshape(2, -1), requires_grad=True)
        weights = logs.exp().float()
        dice = torch.cat([soft_dice(s, weights[0, row], weights[1, row]) for s, row in zip(samples, rows, strict=True)])
        total = -dice.mean() + config.learn_penalty * (logs**2).mean()
        total.backward()  # type: ignore[no-untyped-call]
        assert logs.grad is not None
        return float(total.detach()), logs.grad.numpy().ravel()

    limit = float(np.log(config.max_weight))
    bounds = [(-limit, limit)] * (2 * len(organs))
    found = minimize(loss, np.zeros(2 * len(organs)), jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 60})
    network, maps = np.exp(found.x.reshape(2, -1))
    agree: dict[int, list[float]] = {}
    for sample in samples:
        for k, share in zip(sample.organs, sample.agreement.tolist(), strict=True):
            agree.setdefault(k, []).append(share)
    sources = network, maps, [float(np.mean(agree[k])) for k in organs]
    return JointWeights(*({k: float(v) for k, v in zip(organs, row, strict=True)} for row in sources))


def soft_dice(sample: Sample, network: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Returns the soft Dice of each organ that the ground truth contains, `[organ]`.

    Args:
        sample: voxels of a case.
        network: the weights of the logits, `[K]`.
        maps: the weights of the log odds, `[K]`.
    """
    sums = sample.network * network + sample.maps * maps
    shares = torch.softmax(torch.cat([torch.zeros(len(sums), 1), sums], 1), 1)[:, 1:]
    true = torch.nn.functional.one_hot(sample.truth, len(sample.organs) + 1)[:, 1:].float()
    both = sample.counts @ (shares * true)
    whole = sample.counts @ true + sample.unreachable
    dice = 2 * both / (sample.counts @ shares + whole).clamp(min=1)
    return dice[whole > 0]


def sampled_dice(sample: Sample, weights: JointWeights, config: JointFusionConfig) -> dict[int, float]:
    """Returns an estimate of the Dice of the fused label map, by number of the organs that the ground truth contains.

    Each sampled voxel counts as the voxels that it stands for, so that the logits of whole cases need not be kept.

    Args:
        sample: voxels of a case.
        weights: the weights; 1 for an organ that they lack.
        config: the settings.
    """
    pairs = zip(sample.organs, sample.agreement.tolist(), strict=True)
    network = torch.tensor([weights.of_network(k, share, config) for k, share in pairs])
    maps = torch.tensor([weights.maps.get(k, 1.0) for k in sample.organs])
    sums = sample.network * network + sample.maps * maps
    found = torch.cat([torch.zeros(len(sums), 1), sums], 1).argmax(1)
    dice = {}
    for index, k in enumerate(sample.organs, 1):
        mine, true = found == index, sample.truth == index
        whole = float(sample.counts @ true.float() + sample.unreachable[index - 1])
        if whole > 0:
            both = float(sample.counts @ (mine & true).float())
            dice[k] = 2 * both / (float(sample.counts @ mine.float()) + whole)
    return dice
