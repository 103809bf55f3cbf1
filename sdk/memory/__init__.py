"""How much memory passes through a model take, counted without taking any; and how much there is."""
