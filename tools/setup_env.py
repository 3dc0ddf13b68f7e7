"""Sets up an environment with everything in it. `make setup` runs this; it needs nothing but Python.

    python3 tools/setup_env.py [--stack openmmlab] [--venv .venv] [--torch 2.10.0]

Any Python can read this file, so that one which is too old can say so; environment/install.py does the work.
"""

import sys

if sys.version_info < (3, 10):  # noqa: UP036
    found = 'error: Python 3.10 or newer is needed, and this is {}.{}: '.format(*sys.version_info)  # noqa: UP032
    sys.stderr.write(found + 'name another, as in `make setup PYTHON=python3.11`.\n')
    sys.exit(2)

from environment.install import main  # noqa: E402

if __name__ == '__main__':
    sys.exit(main())
