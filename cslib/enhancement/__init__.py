"""What enhanced speech is worth: measures of quality and intelligibility beside the clean recording."""
