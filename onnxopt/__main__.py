"""`python -m onnxopt`, for where the script is not on the path."""

from onnxopt.cli import main

if __name__ == "__main__":
    main()
