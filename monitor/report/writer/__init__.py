"""What follows the training in a thread of its own: it commits items to the spool, and keeps an uploader running."""
