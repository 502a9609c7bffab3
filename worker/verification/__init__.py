"""What a verification of stored vectors finds, from figures, and its reports."""
