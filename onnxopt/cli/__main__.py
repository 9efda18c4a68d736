"""`python -m onnxopt.cli` is `onnxopt`, also where the package is on the path without being installed."""

from onnxopt.cli import main

main()
