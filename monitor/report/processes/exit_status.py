"""How an uploader ends other than with 0; the training process that started it goes by that."""

# It leaves something in the spool because trying again would not help.
EXIT_NOT_DELIVERED = 3
# It cannot read what is in the spool, though its disk can be read.
EXIT_DAMAGED = 4
