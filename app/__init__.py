import os

# Piccolo looks its engine up by this name, and in the working folder unless told otherwise.
os.environ["PICCOLO_CONF"] = "app.piccolo_conf"
