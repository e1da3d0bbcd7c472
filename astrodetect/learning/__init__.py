"""Dataset to trained model: the only package that imports TensorFlow or Keras."""
