"""Random valid ONNX models, what onnxopt makes of them, and what is wrong with that.

`growing` grows graphs node by node, with the proposals of `layers`, `operators` and `scopes`; `models` makes models of
them; `checking` puts one through onnxopt; `shrinking` makes a model that goes wrong small; `running` does so for many.
"""
