"""Configuration of training and evaluation."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from schemas.alignment import AlignmentConfig, DaRecConfig, RetrievedGraphConfig
from schemas.backbones import (
    AutoCFConfig,
    BackboneConfig,
    ClosedFormConfig,
    GCCFConfig,
    LightGCNConfig,
    MFConfig,
    NGCFConfig,
    check_whitening,
)
from schemas.section import Section, added, not_hashed


class BPRConfig(Section):
    """Bayesian personalised ranking (Rendle et al., UAI 2009): mean softplus(negative score - positive score)."""

    name: Literal["bpr"] = "bpr"


class SampledSoftmaxConfig(Section):
    """Cross-entropy of the positive item against uniformly sampled items, which the whole batch shares."""

    name: Literal["sampled-softmax"] = "sampled-softmax"
    negatives: int = Field(default=1024, ge=1, le=2**24)
    """Number of items sampled in each step. A user's own train items are not used as its negatives."""
    positives: int = added(1, ge=1, le=1_024)
    """Number of positive items of each pair's user in a step: that of the pair, and others drawn from the user's train
    items. The loss is their mean."""
    temperature: float = Field(default=0.2, ge=1e-3)
    """Temperature of the softmax."""


class SoftmaxConfig(Section):
    """Cross-entropy of the positive item against all items."""

    name: Literal["softmax"] = "softmax"
    positives: int = added(1, ge=1, le=1_024)
    """As in sampled-softmax."""
    temperature: float = Field(default=0.2, ge=1e-3)
    """Temperature of the softmax."""


LossConfig = Annotated[BPRConfig | SampledSoftmaxConfig | SoftmaxConfig, Field(discriminator="name")]


class TextConfig(Section):
    """Text vectors as an input of the backbone."""

    use: Literal["none", "start", "add", "replace"] = "none"
    """none: the input is the id embeddings only. start: id embeddings are initialised with the principal components of
    the text vectors. add: a learnt projection of the text vectors is added to the id embeddings. replace: the learnt
    projection replaces the id embeddings."""
    depth: int = Field(default=2, ge=1, le=32)
    """Number of linear layers in the projection. Users and items have one projection each."""
    width: int = Field(default=64, ge=1, le=16_384)
    """Width of the hidden layers of the projection."""
    whiten: int = Field(default=0, ge=0, le=16_384)
    """Number of dimensions that text vectors are PCA-whitened to, for all objectives too. 0 means no whitening."""
    whitening: float = added(1.0, ge=0, le=1)
    """How far text vectors are whitened: 1 gives all components variance 1, 0 leaves their variance unchanged. Used if
    `whiten` is above 0."""
    neighbours: int = added(0, ge=0, le=1_000)
    """Number of nearest items by text of each item in a frozen graph of items. An item's representation is that of the
    backbone plus the average of its neighbours' input rows, as in FREEDOM (Zhou and Shen, MM 2023). 0 means no such
    graph."""

    @model_validator(mode="after")
    def _whitened(self) -> Self:
        check_whitening(self.whiten, self.whitening)
        return self

    @property
    def is_used(self) -> bool:
        """Whether text vectors enter the model."""
        return self.use != "none" or self.neighbours > 0


class FuseConfig(Section):
    """Columns of texts, and of a graph filter, that are appended to the trained vectors. Their scores are added to the
    trained scores; training does not use them.
    """

    components: int = Field(default=256, ge=0, le=16_384)
    """Number of whitened principal components of the text vectors, which is the number of text columns. 0 means no text
    columns."""
    propagate: int = Field(default=8, ge=0, le=1_000)
    """Number of propagation steps over the train graph that are applied to the components, so that an item is also
    described by the texts of the users who have it."""
    share: Annotated[float, Field(ge=0, le=100)] | Literal["auto"] = "auto"
    """Standard deviation of the text scores relative to that of the trained scores. auto: the one of 0, 0.05, 0.1, 0.2,
    0.4 and 0.8 that has the best validation Recall@20; with 0 no text columns are added."""
    graph: int = added(0, ge=0, le=16_384)
    """Number of columns of a graph filter (GF-CF with its defaults). They need no text. 0 means none."""
    graph_share: float = added(0.2, ge=0, le=100)
    """Standard deviation of the graph filter's scores relative to that of the trained scores."""

    @model_validator(mode="after")
    def _some_column(self) -> Self:
        if not self.components and not self.graph:
            raise ValueError("components and graph are 0, so no column is added: set one of them, or fuse to null")
        return self


class TrainConfig(Section):
    """How the collaborative model is trained."""

    backbone: BackboneConfig = Field(default_factory=LightGCNConfig)
    """The collaborative model."""
    dim: int = Field(default=32, ge=1, le=16_384)
    """Dimension of the id embeddings, or of the vectors of a closed-form model."""
    alignment: tuple[AlignmentConfig, ...] = (DaRecConfig(),)
    """Alignment objectives that are added to the loss of the backbone. An empty list means none. Closed-form models do
    not use them."""
    text: TextConfig = Field(default_factory=TextConfig)
    """Text vectors as an input of the backbone."""
    loss: LossConfig = Field(default_factory=BPRConfig)
    """The ranking loss."""
    scoring: Literal["inner", "cosine"] = "inner"
    """Score of a user and an item. inner: inner product of their representations. cosine: representations are
    normalised to unit length first, in training and in the release."""
    ranking_weight: float = Field(default=1.0, ge=0)
    """Weight of the ranking loss. With 0, only the objectives train the model."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Learning rate for Adam."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Schedule of the learning rate. cosine: it decays to 0 over `epochs`."""
    warmup_steps: int = Field(default=0, ge=0, le=1_000_000_000)
    """Linear warm-up of the learning rate over the first N steps. 0 means no warm-up."""
    l2: float = Field(default=1e-6, ge=0)
    """Weight of the L2 penalty: the sum of squares of all parameters is added to the loss in each step, as in
    RLMRec."""
    clip_norm: float = Field(default=0.0, ge=0)
    """Maximum norm of the gradient over all parameters. 0 means no clipping."""
    epochs: int = Field(default=200, ge=1, le=1_000_000)
    """Maximum number of passes over the train interactions."""
    min_epochs: int = Field(default=0, ge=0, le=1_000_000)
    """Minimum number of epochs before early stopping. Some backbones get worse on validation before they improve."""
    validation_users: Annotated[int, Field(ge=0, le=2**31)] | Literal["auto"] = added("auto")
    """Number of users that validation ranks items for, evenly spaced over those that have validation interactions. The
    history and the report give the standard error of a sample. 0: all users. auto: all users if users x items is at
    most 3 billion; otherwise as many users as give 3 billion pairs, but at least 2,000."""
    patience: int = Field(default=5, ge=1, le=1_000_000)
    """Number of evaluations without a better validation Recall@20 after which training stops."""
    eval_every: int = Field(default=3, ge=1, le=1_000_000)
    """Evaluates on validation every N epochs."""
    batch_size: int = Field(default=4096, ge=1, le=2**24)
    """Number of train interactions per step. See also `batch_growth`."""
    batch_growth: Literal["auto", "none"] = added("auto")
    """Whether `batch_size` grows with the data. Each step of a graph model passes over the whole graph, so with a
    constant batch size the cost of an epoch grows with the square of the number of interactions. auto: above a million
    train interactions, the batch size is the smallest power of two with at most 256 steps per epoch, the learning rate
    is multiplied by the square root of the growth, and `l2` is divided by the millions of interactions, since each row
    gets a smaller part of the ranking loss. none: `batch_size`, `learning_rate` and `l2` are used unchanged."""
    dislikes: Literal["ignore", "avoid", "prefer"] = added("ignore")
    """How dislikes (`data.dislike_below`, negative `data.events`) are used as sampled negatives. ignore: they are drawn
    like any other item without an interaction. avoid: they are never drawn. prefer: a fraction `dislike_share` of the
    negatives of users who have dislikes is drawn from these. avoid requires a loss that samples negatives, and prefer
    requires bpr."""
    dislike_share: float = added(0.3, ge=0, le=1)
    """Fraction of the negatives that are dislikes. Used if `dislikes` is prefer."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of initialisation, sampling and dropout."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: dense layers and losses run under autocast, while embeddings and propagation stay float32."""
    compile: bool = False
    """Compiles the projections with torch.compile. This requires a C++ compiler and is not faster on two CPU cores."""
    log_steps: int = Field(default=1, ge=0, le=1_000_000_000)
    """Writes the loss terms to the history every N steps. 0 writes only the mean of each epoch."""
    warm_start: bool = False
    """Initialises id embeddings from the current release, matched by external id, if it was trained with the same
    settings and split, and not on interactions that are held out now. New ids are initialised at random."""
    cold_start: Literal["ridge", "neighbours", "history", "none"] = "ridge"
    """Vectors of users and items without train interactions. ridge: predicted from their text vectors, if the recipe
    uses text. neighbours: the same for users; an item gets the mean vector of the items with the most similar texts,
    scaled up as far as `cold_loss` allows. history: as neighbours, and the texts of the user's items are compared with
    the text of a new item, in additional columns. none: the output of the backbone for their untrained embeddings."""
    cold_loss: float = added(0.02, ge=0, le=1)
    """Maximum relative decrease of the validation Recall@20 of items with train interactions. Used if `cold_start` is
    neighbours or history."""
    cold_growth: float = added(0.3, ge=0, le=2)
    """The power of the number of a user's train interactions by which the scores of items without train interactions
    grow. `darec bench cold-start --growth` chooses it. Used if `cold_start` is history."""
    fuse: FuseConfig | None = added(None)
    """Adds columns to the trained vectors. null: the vectors are those of the backbone."""
    refit: Literal["none", "all"] = not_hashed("none")  # adds a stage with its own artifact and changes no other
    """The interactions that the released model is trained on. none: train only, so the released model is the one that
    is evaluated. all: train, val and test, for the number of epochs that was best on validation. Metrics and the
    comparisons of the gate still describe the model trained on train."""
    device: Literal["auto", "cpu", "cuda"] = not_hashed("auto")
    """Where the model is trained. auto: a GPU if there is one."""
    cuda_graphs: bool = not_hashed(True)  # the same operations on the same values
    """Only on a GPU and with one process: records a training step once as a CUDA graph and replays it, which saves the
    time of launching its operations. Steps that cannot be recorded, because they wait for the GPU, are run directly. A
    recording keeps the memory of its step."""
    processes: int = not_hashed(1, ge=1, le=4096)  # results differ by rounding only, as with the number of threads
    """Number of processes that train the model together; it must divide `dim`. With the backbones lightgcn and mf each
    holds some columns of all id embeddings, with their gradients and the optimiser's state, so that memory and
    propagation are divided; the graph and the text vectors are not. Other backbones mix columns: each process holds
    the whole model, and they divide propagation and the scores of all candidates. On GPUs, one process has one GPU."""
    launcher: Literal["local", "torchrun"] = not_hashed("local")
    """Only for several processes. local: they are started on this machine. torchrun: training waits for processes that
    torchrun starts on one or more machines that share the store; the log shows the command."""
    checkpoint_every: int = not_hashed(10, ge=1, le=1_000_000)
    """Writes a checkpoint every N epochs. A killed run resumes from it exactly."""

    @property
    def needs_text(self) -> bool:
        """Whether text vectors are used."""
        aligned = any(each.needs_text for each in self.alignment)
        has_columns = self.fuse is not None and self.fuse.components > 0
        return aligned or has_columns or self.text.is_used or self.backbone.needs_text

    @property
    def needs_graph(self) -> bool:
        """Whether the train graph is used."""
        return self.backbone.needs_graph or any(each.needs_graph for each in self.alignment)

    @property
    def predicts_cold_rows(self) -> bool:
        """Whether users and items without train interactions get vectors that are predicted from their text."""
        return self.needs_text and self.cold_start != "none"

    def without_text(self) -> "TrainConfig":
        """The same model, loss and schedule without text: the reference in the evaluation.

        A linear teacher remains, without text, and the other objectives are left out. If no loss is left, the ranking
        loss has weight 1.
        """
        kept = tuple(plain for each in self.alignment if (plain := each.without_text()))
        plain = {"alignment": kept, "text": TextConfig(), "warm_start": False, "backbone": self.backbone.without_text()}
        if self.cold_start in ("neighbours", "history"):  # no vector is predicted, so another value trains nothing new
            cold = ("cold_start", "cold_loss", "cold_growth")
            plain |= {name: type(self).model_fields[name].default for name in cold}
        graph_columns = self.fuse.model_copy(update={"components": 0}) if self.fuse and self.fuse.graph else None
        without = self.model_copy(update=plain | {"fuse": graph_columns})
        return without if without.learns else without.model_copy(update={"ranking_weight": 1.0})

    @property
    def learns(self) -> bool:
        """Whether there is a loss: the ranking loss, an objective with a weight, or the backbone's own."""
        weighted = any(getattr(each, "weight", 0) for each in (*self.alignment, self.backbone))
        own_loss = isinstance(self.backbone, AutoCFConfig | ClosedFormConfig)
        return bool(self.ranking_weight) or weighted or own_loss

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_epochs > self.epochs:
            raise ValueError(f"min_epochs {self.min_epochs} is more than epochs, {self.epochs}")
        if isinstance(self.backbone, AutoCFConfig) and self.dim % self.backbone.heads:
            raise ValueError(f"backbone.heads {self.backbone.heads} must divide dim {self.dim}")
        return self

    @property
    def divides_columns(self) -> bool:
        """Whether each of several processes holds some columns of the id embeddings, and not the whole model."""
        return isinstance(self.backbone, LightGCNConfig | MFConfig)

    @model_validator(mode="after")
    def _steps_can_be_shared(self) -> Self:
        if self.processes == 1:
            return self
        if isinstance(self.backbone, ClosedFormConfig):
            raise ValueError(f"processes {self.processes}: {self.backbone.name} has a closed form and is not trained")
        if self.dim % self.processes:
            raise ValueError(f"processes {self.processes} must divide dim {self.dim}")
        return self

    @model_validator(mode="after")
    def _dislikes_are_sampled(self) -> Self:
        allowed = {
            "ignore": ("bpr", "sampled-softmax", "softmax"),
            "avoid": ("bpr", "sampled-softmax"),
            "prefer": ("bpr",),
        }
        if self.loss.name not in allowed[self.dislikes]:
            losses = " or ".join(allowed[self.dislikes])
            raise ValueError(f"dislikes {self.dislikes} needs the loss {losses}, not {self.loss.name}")
        if self.dislikes != "ignore" and isinstance(self.backbone, AutoCFConfig):
            raise ValueError(f"dislikes {self.dislikes} needs sampled negatives, which autocf does not use")
        return self

    @model_validator(mode="after")
    def _rows_have_the_width_of_the_ids(self) -> Self:
        if not isinstance(self.backbone, NGCFConfig | GCCFConfig) or not self.backbone.layers:
            return self
        given = ["text.neighbours"] if self.text.neighbours else []
        given += [each.name for each in self.alignment if isinstance(each, RetrievedGraphConfig)]
        if given:
            raise ValueError(
                f"{given[0]} needs rows as wide as the ids, and {self.backbone.name} concatenates its layers"
            )
        return self

    @model_validator(mode="after")
    def _graph_columns_add_to_inner_products(self) -> Self:
        if self.scoring == "cosine" and self.fuse and self.fuse.graph:
            raise ValueError(
                "fuse.graph: its columns are of different length in each row: set scoring to inner, or graph to 0"
            )
        return self

    @model_validator(mode="after")
    def _closed_forms_are_not_trained(self) -> Self:
        if not isinstance(self.backbone, ClosedFormConfig):
            return self
        if "alignment" not in self.model_fields_set:  # the default is for trained backbones
            vars(self)["alignment"] = ()
        given = {
            "alignment to []": bool(self.alignment),
            "text.use to none": self.text.use != "none",
            "text.neighbours to 0": self.text.neighbours > 0,
            "scoring to inner": self.scoring != "inner",
            "dislikes to ignore": self.dislikes != "ignore",
        }
        if any(given.values()):
            wanted = ", ".join(field for field, is_given in given.items() if is_given)
            raise ValueError(f"backbone: {self.backbone.name} has a closed-form solution: set {wanted}")
        return self


Cutoff = Annotated[int, Field(ge=1, le=10_000)]


class EvaluateConfig(Section):
    """How representations are evaluated."""

    protocol: Literal["rlmrec"] = "rlmrec"
    """rlmrec: all items except the user's train items are ranked, in validation and in test. Users without a test item
    are excluded. The ideal DCG has min(k, test items) hits. Metrics are means over users."""
    cutoffs: tuple[Cutoff, ...] = Field(default=(5, 10, 20), min_length=1)
    """The cutoffs k of all metrics, in ascending order."""
    slices: int = Field(default=3, ge=1, le=100)
    """Number of groups of users by train interactions, and of items by popularity, that are reported separately."""
    category: str = added("")
    """Attribute of items that `category_coverage` groups them by, such as genres; values may be lists separated by `|`
    or commas. If it is empty, the metric is not computed."""
    candidates: Literal["auto", "all", "index"] = added("auto")
    """How the top items of a user are found. all: every item is scored. index: an IVF index with a recall of 99% is
    searched, or every item is scored if this recall needs more than an eighth of the index; the report compares the top
    items of 500 users with those of an exact search. auto: all if users x items is at most 30 billion, or if the
    longest vectors are sufficient to find the best of all items; otherwise index."""
    batch_users: Literal["auto"] | Annotated[int, Field(ge=1, le=2**20)] = not_hashed("auto")
    """Number of users ranked at once; auto: 4,096. Memory grows with it, not with the number of users."""
    device: Literal["auto", "cpu", "cuda"] = not_hashed("auto")
    """Where users are ranked. auto: a GPU if there is one, which may order items of equal score differently."""

    @field_validator("cutoffs")
    @classmethod
    def _ascending(cls, cutoffs: tuple[int, ...]) -> tuple[int, ...]:
        if list(cutoffs) != sorted(set(cutoffs)):
            raise ValueError("cutoffs must be in ascending order and distinct")
        return cutoffs
