"""From this folder to a private model on Replicate: the gate, and the push that goes through it."""
