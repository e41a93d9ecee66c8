"""Importing this leaves a thread behind, which no forkserver may have."""

import threading

threading.Thread(target=threading.Event().wait, daemon=True).start()
