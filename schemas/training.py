"""Configuration of training and evaluation."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from schemas.alignment import AlignmentConfig, DaRecConfig
from schemas.backbones import AutoCFConfig, BackboneConfig, LightGCNConfig
from schemas.section import Section, not_hashed


class BPRConfig(Section):
    """Bayesian personalised ranking (Rendle et al., UAI 2009): mean softplus(negative's score - positive's score)."""

    name: Literal["bpr"] = "bpr"


class SampledSoftmaxConfig(Section):
    """Cross-entropy of the positive against uniformly drawn items that the whole batch shares."""

    name: Literal["sampled-softmax"] = "sampled-softmax"
    negatives: int = Field(default=1024, ge=1, le=2**24)
    """How many items are drawn a step; a user's own train items don't count against it."""
    temperature: float = Field(default=0.2, ge=1e-3)


class SoftmaxConfig(Section):
    """Cross-entropy of the positive against all items."""

    name: Literal["softmax"] = "softmax"
    temperature: float = Field(default=0.2, ge=1e-3)


LossConfig = Annotated[BPRConfig | SampledSoftmaxConfig | SoftmaxConfig, Field(discriminator="name")]


class TextConfig(Section):
    """Text vectors as an input of the backbone, whatever backbone it is."""

    use: Literal["none", "start", "add", "replace"] = "none"
    """none: id embeddings only. start: they begin as the text's principal components, not at random. add: a learnt
    projection of the text is added to them. replace: it stands for them."""
    depth: int = Field(default=2, ge=1, le=32)
    """Linear layers of the projection, one for users and one for items."""
    width: int = Field(default=64, ge=1, le=16_384)
    """Width of the projection's hidden layers."""
    whiten: int = Field(default=0, ge=0, le=16_384)
    """PCA-whiten the text vectors to so many dimensions, for all objectives too; 0 leaves them as they are."""


class TrainConfig(Section):
    """How the collaborative model is trained."""

    backbone: BackboneConfig = Field(default_factory=LightGCNConfig)
    dim: int = Field(default=32, ge=1, le=16_384)
    """Width of the id embeddings."""
    alignment: tuple[AlignmentConfig, ...] = (DaRecConfig(),)
    """The objectives added to the backbone's loss; empty means none."""
    text: TextConfig = Field(default_factory=TextConfig)
    loss: LossConfig = Field(default_factory=BPRConfig)
    scoring: Literal["inner", "cosine"] = "inner"
    """cosine: final representations are brought to unit length, in training and in the release."""
    ranking_weight: float = Field(default=1.0, ge=0)
    """Weight of the ranking loss; with 0 the objectives alone train the model."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Of Adam."""
    schedule: Literal["constant", "cosine"] = "constant"
    """cosine: the learning rate falls to 0 over `epochs`."""
    warmup_steps: int = Field(default=0, ge=0, le=1_000_000_000)
    """The learning rate grows in a line over so many first steps."""
    l2: float = Field(default=1e-6, ge=0)
    """Weight of the sum of squares of all parameters, added to the loss in each step (as in RLMRec)."""
    clip_norm: float = Field(default=0.0, ge=0)
    """Gradients are scaled down to this norm over all parameters; 0 leaves them."""
    epochs: int = Field(default=200, ge=1, le=1_000_000)
    """At most so many passes over the train interactions."""
    min_epochs: int = Field(default=0, ge=0, le=1_000_000)
    """Early stopping waits at least so long: some backbones dip in validation before they rise."""
    patience: int = Field(default=5, ge=1, le=1_000_000)
    """Training stops after so many evaluations without a better validation Recall@20."""
    eval_every: int = Field(default=3, ge=1, le=1_000_000)
    """Epochs between two evaluations on validation."""
    batch_size: int = Field(default=4096, ge=1, le=2**24)
    seed: int = Field(default=0, ge=0, lt=2**63)
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: dense layers and losses run under autocast; embeddings and propagation stay float32."""
    compile: bool = False
    """Compile the projections with torch.compile, which needs a C++ compiler; on two CPU cores it does not pay."""
    log_steps: int = Field(default=1, ge=0, le=1_000_000_000)
    """Write the loss terms of each so-manieth step into the history; 0 writes only each epoch's means."""
    warm_start: bool = False
    """Begin with the id embeddings of the current release, matched by external id, if it was trained with the same
    settings; new ids begin at random."""
    cold_start: Literal["ridge", "none"] = "ridge"
    """Vectors of users and items without train interactions. ridge: predicted from their text, where text takes part.
    none: what the backbone makes of their untrained embeddings."""
    device: Literal["auto", "cpu", "cuda"] = not_hashed("auto")
    """auto takes a GPU if there is one."""
    checkpoint_every: int = not_hashed(10, ge=1, le=1_000_000)
    """Epochs between two checkpoints, from which a killed run goes on exactly."""

    @property
    def needs_text(self) -> bool:
        """Whether text vectors take any part."""
        return bool(self.alignment) or self.text.use != "none"

    @property
    def learns(self) -> bool:
        """Whether there is a loss: the ranking loss, an objective with a weight, or the backbone's own."""
        weighted = any(getattr(each, "weight", 0) for each in (*self.alignment, self.backbone))
        return bool(self.ranking_weight) or weighted or isinstance(self.backbone, AutoCFConfig)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_epochs > self.epochs:
            raise ValueError(f"min_epochs {self.min_epochs} is more than epochs, {self.epochs}")
        if isinstance(self.backbone, AutoCFConfig) and self.dim % self.backbone.heads:
            raise ValueError(f"backbone.heads {self.backbone.heads} must divide dim {self.dim}")
        return self


Cutoff = Annotated[int, Field(ge=1, le=10_000)]


class EvaluateConfig(Section):
    """How representations are judged."""

    protocol: Literal["rlmrec"] = "rlmrec"
    """rlmrec: rank all items but the user's train items, in validation and in test; users without a test item are left
    out; NDCG's ideal is cut at min(k, test items); metrics are means over users."""
    cutoffs: tuple[Cutoff, ...] = Field(default=(5, 10, 20), min_length=1)
    """The k of every metric, in ascending order."""
    slices: int = Field(default=3, ge=1, le=100)
    """Groups of users by train interactions, and of items by popularity, that are reported separately."""
    batch_users: int = not_hashed(1024, ge=1, le=2**20)
    """Users ranked at once: memory grows with it, not with the number of users."""
    device: Literal["auto", "cpu", "cuda"] = not_hashed("auto")
    """Where users are ranked; auto takes a GPU if there is one, which may put items of equal score in another order."""

    @field_validator("cutoffs")
    @classmethod
    def _ascending(cls, cutoffs: tuple[int, ...]) -> tuple[int, ...]:
        if list(cutoffs) != sorted(set(cutoffs)):
            raise ValueError("cutoffs must be in ascending order, each once")
        return cutoffs
