"""`arpg evaluate samples`: pictures and figures as the papers have them, drawn here or through a server."""
