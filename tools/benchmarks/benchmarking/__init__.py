"""What the commands of this folder do after their options are parsed."""
