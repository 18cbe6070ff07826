"""What training minimises: masked losses, their weights, their penalties."""
