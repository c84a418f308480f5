"""Matrix factorisation (Koren et al., 2009; with BPR: Rendle et al., UAI 2009)."""

from torch import Tensor

from darec.backbones.base import Backbone


class MF(Backbone):
    """The input rows are the representations."""

    def forward(self, nodes: Tensor) -> Tensor:
        """[N, dim] -> the same."""
        return nodes
