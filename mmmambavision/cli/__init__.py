"""The commands. Each module here reads a command's arguments with the standard library alone, so that --help and a
mistake are answered at once; then it imports the module of the same name in `work`, which does the rest."""
