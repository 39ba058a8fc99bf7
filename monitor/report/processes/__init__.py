"""The training process and its uploader, each as the other sees it: how it starts, whether it is alive, how it ends."""
