"""From a config file and flags to the config that runs, checked before anything is built."""
