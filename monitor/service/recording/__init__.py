"""Between the streams and the store: what may be stored is checked, committed by one thread, and then shown live."""
