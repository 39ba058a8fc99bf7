"""What people read of the reporting: in the log of the training, in that of the uploader, and as a command to paste."""
