"""From a config file and flags to the config that runs here, checked before anything is built."""
