"""Plug-ins for other tools. Each module imports the tool that it is for, and nothing imports the module."""
