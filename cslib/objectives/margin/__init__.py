"""Classification of (pseudo-)labels with an angular margin."""
