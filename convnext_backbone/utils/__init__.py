"""What every part may use: errors, checks of values, files, images and the command line. Imports nothing of ours."""
