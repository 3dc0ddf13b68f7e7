"""How `tools/setup_env.py` sets up an environment, and what that and `tools/check_env.py` know of the stacks."""
