"""Users and items whose tastes and outcomes are known exactly: the ground truth behind a synthetic log.

User u and item i meet in the vector x = a_u * b_i (element by element), `[D]`: products of latent factors, and
factors of the item and of the user alone. The two tasks are directions in the space of x, as in [MMoE, section 3.2]:

    w1 = u1,  w2 = p u1 + sqrt(1 - p^2) u2,  affinity_k = w_k . (x - mean of x)

where u1 and u2 are orthonormal in the covariance of x over exposures. Both affinities then have variance one, and
their correlation over exposures is p, whatever the popularities. Outcomes follow the examination hypothesis:

    P(click | u, i, position) = (1 + position)^-bias * sigmoid(b1 + signal * affinity_1)
    P(like | click, u, i)     = sigmoid(b2 + signal * affinity_2)

and a clicked item is watched for the share sigmoid(mean of the affinities + logistic noise) of its length.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from scipy.optimize import brentq
from scipy.special import expit, logit

from ranking.data.synthetic.draws import Floats, Ints, pick, uniform, zipf
from ranking.schema import Frozen

Factors = npt.NDArray[np.float32]

_CALIBRATION_ROWS = 200_000
_MEDIAN_SECONDS = 30.0
_LOGIT_RANGE = (-40.0, 40.0)


class PopulationConfig(Frozen):
    """Who meets what, and how likely each outcome is."""

    users: int = Field(100_000, ge=2)
    items: int = Field(50_000, ge=2)
    latent_dims: int = Field(16, ge=1, description="Factors whose products are the match of user and item.")
    own_dims: int = Field(4, ge=1, description="Factors of the user alone, and as many of the item alone.")
    user_exponent: float = Field(0.6, ge=0, description="Zipf exponent of the users' activity.")
    item_exponent: float = Field(0.9, ge=0, description="Zipf exponent of the items' popularity.")
    slate: int = Field(10, ge=1, description="Positions of a request; a log shows items at all of them alike.")
    position_bias: float = Field(0.5, ge=0, description="Position j is examined with probability (1 + j)^-bias.")
    click_rate: float = Field(0.1, gt=0, lt=1, description="Clicks per exposure.")
    like_rate: float = Field(0.02, gt=0, lt=1, description="Satisfaction per click.")
    signal: float = Field(1.0, ge=0, description="Standard deviation of both tasks' logits over exposures.")
    correlation: float = Field(0.5, ge=-1, le=1, description="p: cosine of the two tasks' directions.")
    seed: int = Field(0, ge=0)

    @property
    def examination(self) -> Floats:
        """Probability that each position is looked at, `[slate]`."""
        odds: Floats = np.power(1.0 + np.arange(self.slate), -self.position_bias)
        return odds

    @model_validator(mode="after")
    def _clicks_fit_what_is_examined(self) -> Self:
        most = float(self.examination.mean())
        if self.click_rate >= most:
            raise ValueError(
                f"click_rate: got {self.click_rate}; expected less than {most:.3f}, the share of exposures examined"
            )
        return self


class Population:
    """Users, items and the true probabilities of what happens between them.

    Attributes:
        config: its settings.
        user_factors: `[users, latent_dims + own_dims]` standard normal.
        item_factors: `[items, latent_dims + own_dims]`; the last column is the standardised logarithm of popularity,
            so that what is popular is also clicked more.
        seconds: `[items]` length of the items, log-normal about 30 s.
        activity: `[users]` share of exposures.
        popularity: `[items]` share of exposures.
    """

    def __init__(self, config: PopulationConfig) -> None:
        """Draw everybody, and set the two intercepts so that the rates come out as configured."""
        self.config = config
        draw = np.random.default_rng(config.seed)
        self.activity = draw.permutation(zipf(config.users, config.user_exponent))
        self.popularity = draw.permutation(zipf(config.items, config.item_exponent))
        width = config.latent_dims + config.own_dims
        self.user_factors = draw.standard_normal((config.users, width), np.float32)
        self.item_factors = draw.standard_normal((config.items, width), np.float32)
        self.item_factors[:, -1] = _standardised(np.log(self.popularity))
        self.seconds = np.exp(draw.normal(np.log(_MEDIAN_SECONDS), 0.6, config.items))
        self._cumulative = {"user": np.cumsum(self.activity), "item": np.cumsum(self.popularity)}
        (latent, own), (item_latent, item_own) = (
            np.split(factors, [config.latent_dims], axis=1) for factors in (self.user_factors, self.item_factors)
        )
        self._a = np.hstack([latent, np.ones_like(own), own])
        self._b = np.hstack([item_latent, item_own, np.ones_like(item_own)])
        mean, covariance = _moments(self._a, self.activity, self._b, self.popularity)
        directions = _directions(covariance, config, draw)
        self._directions, self._shift = directions.astype(np.float32), directions @ mean
        self._intercepts = self._calibrated(draw)

    def affinities(self, users: Ints, items: Ints) -> Floats:
        """Engagement and satisfaction affinity `[N, 2]` of users `[N]` and items `[N]`; mean 0, variance 1."""
        x = self._a[users] * self._b[items]
        values: Floats = np.einsum("nd,kd->nk", x, self._directions) - self._shift  # BLAS would round by N
        return values

    def examined(self, positions: Ints) -> Floats:
        """Probability that positions `[N]`, counted from 0, are looked at."""
        odds: Floats = np.power(1.0 + positions, -self.config.position_bias)
        return odds

    def probabilities(self, users: Ints, items: Ints, positions: Ints) -> tuple[Floats, Floats]:
        """True P(click) and P(like | click) `[N]` of users, items and positions `[N]`."""
        click, like = expit(self._intercepts + self.config.signal * self.affinities(users, items)).T
        return self.examined(positions) * click, like

    def watch_seconds(self, users: Ints, items: Ints, numbers: Floats) -> Floats:
        """Seconds watched `[N]` of clicked items, from `numbers` `[N]` uniform in (0, 1)."""
        seconds: Floats = self.seconds[items] * expit(self.affinities(users, items).mean(1) + logit(numbers))
        return seconds

    def draw_users(self, seed: int, requests: Ints) -> Ints:
        """Who makes each of the requests `[N]`: by activity."""
        return pick(self._cumulative["user"], uniform(seed, "user", requests))

    def draw_items(self, seed: int, *counters: Ints) -> Ints:
        """An item for every tuple of counters `[N]` (broadcast against each other): by popularity, repeats allowed."""
        return pick(self._cumulative["item"], uniform(seed, "item", *counters))

    def candidates(self, seed: int, requests: Ints, count: int) -> Ints:
        """Items to choose from in each of the requests `[N]`: `[N, count]`, by popularity.

        An item stands once in a request; where it was drawn again stands -1.
        """
        items = np.sort(self.draw_items(seed, requests[:, None], np.arange(count)[None, :]), axis=1)
        items[:, 1:][items[:, 1:] == items[:, :-1]] = -1
        return items

    def _calibrated(self, draw: np.random.Generator) -> Floats:
        config, size = self.config, _CALIBRATION_ROWS
        users, items = (pick(self._cumulative[kind], draw.random(size)) for kind in ("user", "item"))
        engagement, satisfaction = config.signal * self.affinities(users, items).T
        click = _intercept(engagement, np.ones(size), config.click_rate / config.examination.mean())
        return np.array([click, _intercept(satisfaction, expit(click + engagement), config.like_rate)])


def _moments(a: Factors, activity: Floats, b: Factors, popularity: Floats) -> tuple[Floats, Floats]:
    """Mean `[D]` and covariance `[D, D]` of x over exposures; exact, users and items being drawn independently."""
    mean = (activity @ a) * (popularity @ b)
    second = (a.T @ (a * activity[:, None])) * (b.T @ (b * popularity[:, None]))
    return mean, second - np.outer(mean, mean)


def _directions(covariance: Floats, config: PopulationConfig, draw: np.random.Generator) -> Floats:
    """The tasks' w1 and w2 `[2, D]`."""
    first, second = draw.standard_normal((2, len(covariance)))
    first *= np.copysign(1.0, first[config.latent_dims + config.own_dims - 1])  # popularity speaks for a click
    first /= np.sqrt(first @ covariance @ first)
    second -= (second @ covariance @ first) * first
    second /= np.sqrt(second @ covariance @ second)
    p = config.correlation
    return np.stack([first, p * first + np.sqrt(1 - p**2) * second])


def _intercept(logits: Floats, weights: Floats, rate: float) -> float:
    """The b at which the weighted mean of sigmoid(b + logits) is `rate`."""
    value: float = brentq(lambda b: np.average(expit(b + logits), weights=weights) - rate, *_LOGIT_RANGE)
    return value


def _standardised(values: Floats) -> Floats:
    spread = values.std()
    scaled: Floats = (values - values.mean()) / (spread if spread > 0 else 1.0)
    return scaled
