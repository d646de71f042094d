"""The paper's maths on tensors: noise schedule (Eq. 1, 3) and degradation grouping (Eq. 5, 6, 7)."""
