"""Sessions that run exported files, behind one Protocol."""
